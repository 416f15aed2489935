"""What the demo book is made of: names, branches, and how often each kind of customer, product and payment occurs."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from eds.base.errors import UserError
from eds.base.settings import ROOT

BRANCHES_FILE = ROOT / "seeds" / "branches.csv"

# In the order of the numbers 1, 2, 3 … that the statements below use.
SEGMENTS = ("retail", "sme", "corporate")
SEGMENT_WEIGHTS = (0.80, 0.16, 0.04)
METHODS = ("mpesa", "bank_transfer", "cash", "cheque", "online")
METHOD_WEIGHTS = {
    "retail": (0.74, 0.07, 0.12, 0.01, 0.06),
    "sme": (0.50, 0.22, 0.12, 0.06, 0.10),
    "corporate": (0.06, 0.58, 0.02, 0.20, 0.14),
}

PRODUCT_WEIGHTS = {
    "retail": {"personal": 0.50, "education": 0.12, "business": 0.20, "auto": 0.12, "mortgage": 0.06},
    "sme": {"business": 0.62, "auto": 0.18, "personal": 0.10, "mortgage": 0.06, "education": 0.04},
    "corporate": {"business": 0.58, "auto": 0.22, "mortgage": 0.14, "personal": 0.03, "education": 0.03},
}
# The lowest yearly rate of a product type in percent; loans lie up to six points above it.
BASE_RATES = {"personal": 15.0, "mortgage": 11.0, "business": 14.0, "auto": 13.0, "education": 9.5}

CITY_WEIGHTS = {
    "Nairobi": 34.0,
    "Mombasa": 11.0,
    "Kisumu": 6.5,
    "Nakuru": 6.5,
    "Eldoret": 5.0,
    "Thika": 3.5,
    "Kiambu": 2.5,
    "Kampala": 5.0,
    "Dar es Salaam": 4.0,
    "Kigali": 2.5,
}


@dataclass(frozen=True)
class Country:
    """Names of a country's people, and its telephone code."""

    name: str
    dial_code: str
    first_names: tuple[str, ...]
    family_names: tuple[str, ...]


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split())


def _list(text: str) -> tuple[str, ...]:
    return tuple(text.split(", "))


COUNTRIES = (
    Country(
        "Kenya",
        "254",
        _names(
            "Achieng Akinyi Amina Anne Atieno Brian Caroline Catherine Charles Chebet Cynthia Daniel David "
            "Dennis Diana Dorothy Edwin Elizabeth Esther Eunice Evans Faith Fatuma Felix Florence Francis "
            "George Grace Halima Hassan Ian Irene Jackline James Jane Janet Joan John Joseph Joshua Joyce "
            "Judith Kennedy Kevin Lilian Lucy Lydia Margaret Martin Mary Mercy Michael Moses Nancy Naomi Otieno "
            "Patrick Paul Peter Purity Rose Ruth Samuel Sharon Stephen Susan Teresia Victor Vincent Wanjiru"
        ),
        _names(
            "Abdi Achieng Adhiambo Ali Barasa Cherono Chepkoech Cheruiyot Gathoni Gitau Githinji Juma Kamau "
            "Karanja Kariuki Kemboi Kiplagat Kiprono Kiptoo Kimani Kinyua Koech Korir Langat Maina Makau Mbugua "
            "Mohamed Mugo Muriithi Musyoka Muthoni Mutua Mutuku Mwangi Mwende Ndung'u Ngugi Njenga Njeri "
            "Njoroge Njuguna Nyaga Nyambura Ochieng Odhiambo Ogutu Okoth Omondi Onyango Opiyo Otieno Ouma Owino "
            "Rotich Ruto Simiyu Wafula Wairimu Waithaka Wambui Wanjala Wanyama Were"
        ),
    ),
    Country(
        "Uganda",
        "256",
        _names(
            "Agnes Allan Annet Brenda Deo Derrick Doreen Emmanuel Esther Fred Godfrey Grace Hellen Henry "
            "Herbert Ivan Jackson Joan Joseph Julius Justine Lawrence Lillian Mariam Moses Patience Prossy "
            "Richard Robert Ronald Rebecca Sarah Scovia Stella Sylvia Violet"
        ),
        _names(
            "Acen Achan Akello Asiimwe Atim Byaruhanga Kaggwa Kamya Kasozi Kato Kirabo Kiwanuka Lubega Lukwago "
            "Mugisha Mukasa Musoke Mutebi Nabirye Nakato Nakimera Namukasa Namutebi Nansubuga Nsubuga Ocen "
            "Odongo Okello Okot Opio Ssebunya Ssekandi Ssemakula Tumusiime Tumwine Wasswa"
        ),
    ),
    Country(
        "Tanzania",
        "255",
        _names(
            "Abdallah Aisha Amani Anna Asha Baraka Daudi Elia Emanuel Fatma Furaha Godwin Hamisi Hawa Imani "
            "Jafari Janeth Juma Khadija Lulu Mariamu Mwanaidi Neema Omari Pendo Rajabu Rehema Salma Selemani "
            "Sophia Tumaini Upendo Yusuf Zainabu Zawadi"
        ),
        _names(
            "Chuwa Hassani Kapinga Kimaro Kisanga Komba Lema Lyimo Magesa Mahenge Makame Malecela Massawe "
            "Mbwana Mchome Mgaya Mhando Minja Mkapa Mmari Mollel Mosha Mrema Msuya Mushi Mwakyusa Mwinyi Ngowi "
            "Nyerere Rashidi Sanga Shayo Shirima Swai Tarimo Urassa"
        ),
    ),
    Country(
        "Rwanda",
        "250",
        _names(
            "Alice Aline Alphonse Angelique Chantal Claudine Clementine Diane Divine Emile Eric Espoir Gaspard "
            "Grace Immaculee Innocent Jeanne Josiane Josue Marie Olivier Pacifique Pascal Solange Theogene "
            "Vestine Yvette Yves"
        ),
        _names(
            "Bizimana Gasana Habimana Hakizimana Ingabire Iradukunda Kagabo Kalisa Kamanzi Karangwa Mugabo "
            "Mukamana Mukandayisenga Munyaneza Murekatete Mutesi Ndayisaba Ngabo Niyonsaba Niyonzima Nkurunziza "
            "Nsengimana Rukundo Rwigema Tuyisenge Umutoni Uwase Uwimana"
        ),
    ),
)
TRADES = _list(
    "Agrovet, Auto Spares, Bakery, Boda Services, Boutique, Butchery, Cereals, Chemist, Cyber & Printing, "
    "Dairy, Electricals, Fresh Produce, Furniture Works, General Stores, Hardware, Hotel, Poultry Farm, Salon & "
    "Spa, Tailoring, Timber Yard, Transporters, Welding Works"
)
TRADE_ENDINGS = ("Enterprises", "& Sons", "Traders", "Ventures", "Supplies", "Agencies", "Limited", "Partners")
COMPANY_NAMES = _list(
    "Acacia, Amboseli, Aberdare, Baobab, Great Lakes, Highland, Jambo, Jubilee, Kifaru, Kilele, Lakeshore, "
    "Longonot, Mara, Nyota, Pwani, Rift Valley, Savannah, Simba, Tausi, Twiga, Umoja, Victoria, Zawadi"
)
INDUSTRIES = _list(
    "Agro Processors, Beverages, Building Products, Cold Chain, Construction, Distributors, Engineering, Flour "
    "Mills, Freight & Logistics, Horticulture, Packaging, Pharmaceuticals, Plastics, Schools, Solar, Steel, Tea "
    "Growers, Textiles"
)
COMPANY_ENDINGS = ("Ltd", "Group Ltd", "Holdings Ltd", "(EA) Ltd", "PLC")


@dataclass(frozen=True)
class Branch:
    """One branch of the bank, as seeds/branches.csv has it."""

    branch_code: str
    branch_name: str
    city: str
    region: str
    country: str


def read_branches(path: Path = BRANCHES_FILE) -> list[Branch]:
    """The bank's branches, in the order of the file. Raises UserError when the file cannot be used."""
    columns = list(Branch.__dataclass_fields__)
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            if reader.fieldnames != columns:
                raise UserError(
                    f"Expected the columns {', '.join(columns)} in {path}, found {', '.join(reader.fieldnames or [])}. "
                    "Correct the file's first line."
                )
            branches = [Branch(**row) for row in reader]
    except OSError as error:
        raise UserError(
            f"Expected the list of branches in {path}, found: {error.strerror}. Restore the file."
        ) from error
    known = {country.name for country in COUNTRIES}
    strange = sorted({branch.country for branch in branches} - known)
    if strange or not branches:
        raise UserError(
            f"Expected branches in {', '.join(sorted(known))} in {path}, found {', '.join(strange) or 'none'}. "
            "Correct the file, or add the country's names to COUNTRIES in scripts/eds/book/demo/names.py."
        )
    return branches
